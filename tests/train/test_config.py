"""Settings: types and ranges, recipes and files, overrides, what may change on resume."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facepack.errors import ConfigError
from facepack.settings import describe
from facepack.train.collect import (
    collect_settings,
    make_config,
    merge_settings,
    parse_assignments,
    parse_overrides,
    read_settings,
    recipe_names,
)
from facepack.train.config import (
    COURSE,
    FREE_ON_RESUME,
    TrainConfig,
    differing_settings,
    dump_config,
)

MHLR_RECIPES = [
    f"{data}_{net}"
    for data in ("ms1mv3", "webface4m", "webface8m", "webface12m")
    for net in ("r50", "r100")
]
# What the published code of each sets; r100 and r50 of a pair differ in the backbone alone.
AUTHORS_RECIPES: dict[str, dict[str, Any]] = {
    "ms1mv2_adaface": {
        "margin_options": {"margin": 0.4, "h": 0.333, "t_alpha": 0.01},
        "length": (512, 26, 0.0, [12, 20, 24]),
        "augment": "adaface",
    },
    "webface4m_adaface": {
        "margin_options": {"margin": 0.4, "h": 0.333, "t_alpha": 0.01},
        "length": (1792, 26, 1.0, [12, 20, 24]),
        "augment": "adaface",
    },
    "ms1mv2_magface": {
        "margin_options": {
            **{"low_norm": 10.0, "high_norm": 110.0, "low_margin": 0.45, "high_margin": 0.8},
            **{"penalty_weight": 35.0, "easy": True},
        },
        "length": (512, 25, 0.0, [10, 18, 22]),
    },
    "ms1mv2_curricularface": {
        "margin_options": {"margin": 0.5, "momentum": 0.99},
        "length": (512, 24, 0.0, [10, 18, 22]),
    },
    "casia_uniface": {
        "margin_options": {"margin": 0.4, "negatives": 1.0},
        "length": (512, 28, 0.0, [16, 24]),
    },
    "ms1mv2_elastic": {
        "margin_options": {"kind": "arcface", "margin": 0.5, "deviation": 0.05},
        "length": (512, 26, 0.0, [7, 13, 19, 24]),
    },
}
AUTHORS_NETS = [
    *("ms1mv2_adaface_r50", "ms1mv2_adaface_r100"),
    *("webface4m_adaface_r50", "webface4m_adaface_r100"),
    *("ms1mv2_magface_r50", "ms1mv2_magface_r100"),
    *("ms1mv2_curricularface_r100", "casia_uniface_r50", "ms1mv2_elastic_r100"),
]
TINY_MARGINS = (
    *("sphereface", "curricularface", "magface", "adaface", "uniface", "subcenter", "elastic"),
)


def make(**settings: Any) -> TrainConfig:
    return make_config({"shards": "faces", **settings})


def test_every_setting_has_a_docstring() -> None:
    described = describe(TrainConfig)
    assert [text.split(" ")[0] for text, _ in described] == [
        field.name for field in dataclasses.fields(TrainConfig)
    ]
    assert all(help_text.endswith(".") for _, help_text in described)
    help_text = dict(described)["batch_size = 128"]
    assert help_text.startswith("Images in an optimizer step, all micro-batches and all ranks")


def test_help_names_what_can_be_chosen() -> None:
    from facepack.train import backbones, schedules
    from facepack.train.heads.margins import MARGINS

    described = {text.split(" ")[0]: help_text for text, help_text in describe(TrainConfig)}
    for setting, names in (
        ("backbone", backbones.names()),
        ("schedule", schedules.names()),
        ("margin", list(MARGINS)),
    ):
        for name in names:
            assert re.search(rf"\b{name}\b", described[setting]), f"{name} in {setting}"


def test_tables_of_names_name_settings() -> None:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names >= FREE_ON_RESUME
    assert names >= COURSE


def test_importing_settings_does_not_import_torch() -> None:
    code = "import sys, facepack.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": "128"}, "batch_size = '128' is not a whole number"),
        ({"batch_size": 1}, "batch_size = 1 is not allowed: it must be at least 2"),
        ({"batch_size": True}, "batch_size = True is not a whole number"),
        ({"epochs": 1.5}, "epochs = 1.5 is not a whole number"),
        ({"epochs": 0}, "epochs = 0 is not allowed: it must be at least 1"),
        ({"lr": "fast"}, "lr = 'fast' is not a number"),
        ({"lr": 0.0}, "lr = 0.0 is not allowed: it must be above 0"),
        ({"lr": float("nan")}, "lr = nan is not a finite number"),
        ({"momentum": 1.0}, "momentum = 1.0 is not allowed: it must be at least 0 and below 1"),
        ({"sample_rate": 1.5}, "sample_rate = 1.5 is not allowed: it must be from 0"),
        ({"mirror": 1}, "mirror = 1 is not true or false"),
        ({"backbone": ""}, "backbone is empty"),
        ({"schedule_options": 3}, "schedule_options = 3 is not a table"),
        (
            {"precision": "fp61"},
            r"precision = 'fp61' is not one of auto, fp32, bf16, fp16 \(did you mean fp16",
        ),
        ({"lr": 1e39}, r"lr = 1e\+39 is not allowed: it must be above 0 and a float32"),
        ({"weight_decay": 1e300}, "weight_decay = .* must be at least 0 and a float32"),
        ({"optimizer": "adamw"}, "lr must be set with optimizer = adamw"),
        (
            {"optimizer": "adamw", "lr": 1e-3, "momentum": 0.8},
            "momentum = 0.8 is SGD's; optimizer = adamw takes none",
        ),
        ({"batch_size": 6, "accumulate": 4}, "accumulate = 4 does not divide batch_size = 6"),
        (
            {"batch_size": 4, "accumulate": 4},
            "accumulate = 4 leaves one image in a micro-batch.*Lower it, or raise batch_size",
        ),
        (
            {"head_storage": "host"},
            r"head_storage = host with sample_rate = 1\.0 would copy every centre",
        ),
        (
            {"optimizer": "adamw", "lr": 1e-3, "momentum_dtype": "bf16"},
            "momentum_dtype = bf16 is SGD's; optimizer = adamw keeps its moments in fp32",
        ),
        ({"interclass_filter": 1.0}, "interclass_filter = 1.0 is not allowed: .* below 1"),
        ({"chunk": -1}, "chunk = -1 is not allowed: it must be at least 1, or 0 to choose"),
        ({"order": "block"}, r"order = 'block' is not one of .*did you mean blocks"),
        ({"augment": "dali"}, "augment = 'dali' is not one of none, arcface_torch, adaface"),
        ({"val": {"lfw": 3}}, "val must name sets as name = path; received 'lfw' = 3"),
        ({"batchsize": 3}, r"unknown setting 'batchsize' \(did you mean batch_size"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_shards_must_be_set() -> None:
    with pytest.raises(ConfigError, match="shards is not set: name the pack"):
        make_config({})


def test_whole_numbers_serve_as_numbers() -> None:
    assert make(lr=1).lr == 1.0
    assert isinstance(make(lr=1).lr, float)


def test_learning_rate_follows_the_batch_unless_set() -> None:
    assert make().base_lr == 0.02
    assert make(batch_size=512).base_lr == 0.08
    assert make(batch_size=512, accumulate=4).base_lr == 0.08
    assert make(batch_size=512, lr=0.1).base_lr == 0.1


def test_recipes_are_there() -> None:
    tiny = ["cpu_tiny", *(f"cpu_tiny_{margin}" for margin in TINY_MARGINS)]
    unequal = ["cpu_tiny_unequal", "unequal_r50_mf2"]
    f2c = ["cpu_tiny_f2c", "f2c_ir50_ms1mv2"]
    assert recipe_names() == sorted([*tiny, *unequal, *f2c, *MHLR_RECIPES, *AUTHORS_NETS])


def test_unequal_recipe_is_the_authors() -> None:
    config = make(**read_settings("unequal_r50_mf2"))
    assert (config.method, config.method_options) == ("unequal", {"stage": "head"})
    assert (config.margin, config.m2, config.scale, config.sample_rate) == ("arcface", 0.5, 64, 1)
    assert (config.base_lr, config.momentum, config.weight_decay) == (0.1, 0.9, 5e-4)
    assert (config.batch_size, config.epochs, config.clip_norm) == (200, 40, 0.0)
    milestones = [int(step * 512 / 200) for step in (32_000, 48_000, 60_000)]  # as they scale them
    assert config.schedule_options == {"unit": "steps", "milestones": milestones, "factor": 0.1}
    tiny = make(**read_settings("cpu_tiny_unequal"))
    assert (tiny.method, tiny.backbone, tiny.margin) == ("unequal", "tiny", "arcface")


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_valid_and_states_known_names(name: str) -> None:
    from facepack.train import backbones
    from facepack.train.build import make_margin
    from facepack.train.heads.margins import MARGINS
    from facepack.train.schedules import names, option_names

    config = make(**read_settings(name))
    assert config.backbone in backbones.names()
    assert isinstance(make_margin(config), MARGINS[config.margin])
    assert config.schedule in names()
    assert set(config.schedule_options) <= set(option_names(config.schedule))


@pytest.mark.parametrize("name", MHLR_RECIPES)
def test_published_recipe(name: str) -> None:
    config = make(**read_settings(name))
    assert config.base_lr == 0.02
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (config.batch_size, config.accumulate, config.epochs) == (128, 1, 5)
    assert (config.warmup_epochs, config.clip_norm, config.mirror) == (0.0, 5.0, True)
    assert (config.precision, config.schedule, config.scale) == ("fp16", "mhlr", 64.0)
    assert config.backbone == name.split("_")[1]
    if name.startswith("ms1mv3"):
        assert (config.margin, config.m2) == ("arcface", 0.5)
        assert config.margin_gradient == "straight_through"
        assert config.schedule_options == {"window": 4000}
    else:
        assert (config.margin, config.m3) == ("cosface", 0.4)


@pytest.mark.parametrize("name", [name for name in MHLR_RECIPES if name.startswith("webface")])
def test_webface_recipes_differ_in_the_backbone_alone(name: str) -> None:
    settings = read_settings(name)
    assert settings.pop("backbone") == name.split("_")[1]
    first = read_settings("webface4m_r50")
    del first["backbone"]
    assert settings == first


@pytest.mark.parametrize("name", AUTHORS_NETS)
def test_authors_recipe(name: str) -> None:
    of, _, net = name.rpartition("_")
    published, config = AUTHORS_RECIPES[of], make(**read_settings(name))
    margin = of.rpartition("_")[2]
    ir = {"r50": "ir_50", "r100": "ir_101"}[net]
    networks = {
        "adaface": ir,
        "curricularface": f"{ir}_curricularface",
        "magface": f"{net}_magface",
    }
    assert (config.backbone, config.margin) == (networks.get(margin, net), margin)
    assert config.channels == ("bgr" if of == "ms1mv2_adaface" else None)
    assert config.margin_options == published["margin_options"]
    assert (config.base_lr, config.scale, config.sample_rate) == (0.1, 64.0, 1.0)
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
    assert config.schedule == "multistep"
    length = (config.batch_size, config.epochs, config.warmup_epochs)
    assert (*length, config.schedule_options["milestones"]) == published["length"]
    assert (config.mirror, config.augment) == (True, published.get("augment", "none"))


def test_f2c_recipe() -> None:
    config = make(**read_settings("f2c_ir50_ms1mv2"))
    assert (config.method, config.backbone, config.batch_size) == ("f2c", "r50", 8 * 64)
    assert config.method_options == {
        **{"share": 0.01, "loss": "am", "margin": 0.5},
        **{"scale": 32.0, "gallery_momentum": 0.99},
    }
    assert (config.lr, config.momentum, config.nesterov, config.weight_decay) == (
        0.1,
        0.9,
        True,
        1e-4,
    )
    assert (config.epochs, config.schedule_options["milestones"]) == (19, [8, 14, 17])


@pytest.mark.parametrize("margin", TINY_MARGINS)
def test_tiny_recipes_differ_in_the_margin_alone(margin: str) -> None:
    settings = read_settings(f"cpu_tiny_{margin}")
    assert settings.pop("margin") == margin
    settings.pop("margin_options", None)
    below = read_settings("cpu_tiny")
    del below["margin"], below["m3"]
    assert settings == below


def test_file_lies_over_its_base(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('base = "ms1mv3_r50"\nepochs = 9\n[schedule_options]\nfactor = 0.4')
    below = read_settings("ms1mv3_r50")
    assert read_settings(str(path)) == {
        **below,
        "epochs": 9,
        "schedule_options": {**below["schedule_options"], "factor": 0.4},
    }
    path.write_text('base = "ms1mv3_r50"\nmargin = "cosface"')
    assert not {"m2", "margin_gradient"} & set(read_settings(str(path)))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"ms1mv3_r5"', r"own\.toml: base = 'ms1mv3_r5' is not one of .*did you mean ms1mv3_r50"),
        ('"own.toml"', r"own\.toml: base = 'own\.toml' is not one of"),
        ("3", r"own\.toml: base = 3 is not "),
    ],
)
def test_bad_base_is_named(tmp_path: Path, base: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"base = {base}")
    with pytest.raises(ConfigError, match=message):
        read_settings(str(path))


def test_unknown_recipe_and_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'ms1mv3_r5'.*did you mean ms1mv3_r50"):
        read_settings("ms1mv3_r5")
    with pytest.raises(ConfigError, match=r"config file nowhere\.toml does not exist"):
        read_settings("nowhere.toml")


def test_bad_toml_and_unknown_setting_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"own\.toml is not TOML: "):
        read_settings(str(path))
    path.write_text("learning_rate = 3")
    with pytest.raises(ConfigError, match=r"own\.toml: unknown setting 'learning_rate'"):
        read_settings(str(path))


def test_dumped_config_reads_back(tmp_path: Path) -> None:
    config = make(
        schedule="mhlr",
        schedule_options={"window": 7, "threshold": "auto"},
        val={"lfw": "l"},
        m3=0.3,
    )
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert make_config(read_settings(str(path))) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size=256", {"batch_size": 256}),
        ("lr = 1e-3", {"lr": 1e-3}),
        ("lr=none", {"lr": None}),
        ("mirror=False", {"mirror": False}),
        ("backbone=r18", {"backbone": "r18"}),
        ("schedule_options.window=40", {"schedule_options": {"window": 40}}),
        ("schedule_options.threshold=auto", {"schedule_options": {"threshold": "auto"}}),
        ("schedule_options.at=[0.5, 0.8]", {"schedule_options": {"at": [0.5, 0.8]}}),
        ("val.lfw=a=b.bin", {"val": {"lfw": "a=b.bin"}}),
    ],
)
def test_override_is_parsed_by_type(text: str, expected: dict[str, Any]) -> None:
    assert parse_overrides([text]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size", "--set batch_size: write it as key=value"),
        ("batch_size=many", "batch_size = 'many' is not a whole number"),
        ("mirror=1", "mirror = '1' is not true or false"),
        ("epoch=3", r"--set epoch=3: unknown setting 'epoch' \(did you mean epochs"),
        ("schedule_options=3", r"write it as schedule_options\.key=value"),
        ("lr.low=3", "write it as lr=value"),
        ("=3", "--set =3: write it as key=value"),
    ],
)
def test_bad_override_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides([text])


def test_assignments_of_unknown_type_are_read_as_toml_or_text() -> None:
    texts = ["window=40", "at = [0.5, 8]", "threshold=auto", "quoted='1'", "rate=1e-2", "on=true"]
    assert parse_assignments(texts) == {
        "window": 40,
        "at": [0.5, 8],
        "threshold": "auto",
        "quoted": "1",
        "rate": 0.01,
        "on": True,
    }
    with pytest.raises(ConfigError, match="--set window: write it as key=value"):
        parse_assignments(["window"])


def test_layers_merge_tables_and_drop_what_belonged_to_another() -> None:
    below = {"schedule": "mhlr", "schedule_options": {"window": 5, "factor": 0.5}}
    assert merge_settings(below, {"schedule_options": {"window": 9}})["schedule_options"] == {
        "window": 9,
        "factor": 0.5,
    }
    assert merge_settings(below, {"schedule": "cosine"}) == {"schedule": "cosine"}
    arcface = {"margin": "arcface", "m2": 0.5, "margin_gradient": "straight_through"}
    assert merge_settings(arcface, {"margin": "cosface", "m3": 0.3}) == {
        "margin": "cosface",
        "m3": 0.3,
    }
    assert merge_settings(arcface, {"margin": "arcface", "lr": 1.0}) == {**arcface, "lr": 1.0}
    sgd = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.8, "weight_decay": 5e-4, "epochs": 3}
    adamw = {"optimizer": "adamw", "weight_decay": 0.05}
    assert merge_settings(sgd, adamw) == {**adamw, "epochs": 3}
    with pytest.raises(ConfigError, match="lr must be set with optimizer = adamw"):
        make(**merge_settings(sgd, {"optimizer": "adamw"}))


def test_layer_that_names_the_default_drops_nothing() -> None:
    below = {"lr": 0.1, "m3": 0.3, "schedule_options": {}}
    named = {"optimizer": "sgd", "margin": "cosface", "schedule": "cosine"}
    assert merge_settings(below, named) == {**below, **named}


def test_command_line_lies_over_recipe(tmp_path: Path) -> None:
    settings = collect_settings(
        source="cpu_tiny", overrides=["epochs=3"], shards="faces", val={"lfw": "lfw.bin"}
    )
    assert settings["backbone"] == "tiny"
    assert (settings["epochs"], settings["shards"]) == (3, "faces")
    assert settings["val"] == {"lfw": "lfw.bin"}


def test_resumed_run_brings_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(dump_config(make(epochs=9, val={"lfw": "l"})))
    assert make_config(collect_settings(run=tmp_path)).epochs == 9
    assert collect_settings(run=tmp_path / "none", shards="faces") == {"shards": "faces"}
    with pytest.raises(ConfigError, match=r"none holds no config\.toml, .* --shards"):
        collect_settings(run=tmp_path / "none")


def test_settings_named_on_resume_add_to_the_runs_own(tmp_path: Path) -> None:
    own = make(epochs=9, seed=4, val={"lfw": "l"})
    (tmp_path / "config.toml").write_text(dump_config(own))
    settings = collect_settings(run=tmp_path, source="cpu_tiny", val={"cfp": "c"})
    config = make_config(settings)
    assert (config.shards, config.seed) == ("faces", 4)
    assert config.val == {"lfw": "l", "cfp": "c"}
    assert (config.backbone, config.epochs) == ("tiny", read_settings("cpu_tiny")["epochs"])


def test_differing_settings_are_those_that_decide_the_weights() -> None:
    saved = make(lr=0.1).as_dict()
    assert differing_settings(saved, make(lr=0.1, log_every=7, shards="moved")) == {}
    assert differing_settings(saved, make(lr=0.2, m3=0.3)) == {
        "lr": (0.1, 0.2),
        "m3": (None, 0.3),
    }


def test_cuda_graphs_want_one_micro_batch() -> None:
    assert TrainConfig(shards="p", compile="reduce-overhead").compile == "reduce-overhead"
    with pytest.raises(ConfigError, match="accumulate = 2 set compile = default"):
        TrainConfig(shards="p", compile="reduce-overhead", accumulate=2)
