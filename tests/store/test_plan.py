"""Plans: what their id stands for, and what shards and appended plans state."""

from __future__ import annotations

import pytest

from facepack.errors import PackError
from facepack.store import format as fmt
from facepack.store.plan import PackPlan

SOURCE = {"kind": "rec", "images": 7}
SPANS = [{"name": "a", "start": 0, "stop": 4}, {"name": "b", "start": 4, "stop": 7}]


def test_the_id_is_that_of_the_fields() -> None:
    plan = PackPlan.make(kind="train", source=SOURCE, shards=SPANS)
    assert plan.pack_id == fmt.content_id(plan.fields)
    changed = plan.with_fields(seed=1)
    assert changed.fields == {**plan.fields, "seed": 1} and changed.pack_id != plan.pack_id
    assert plan == PackPlan.make(kind="train", source=SOURCE, shards=SPANS)


def test_a_shard_states_the_plan_without_the_others() -> None:
    plan = PackPlan.make(kind="train", source=SOURCE, shards=SPANS)
    header = {key: value for key, value in plan.fields.items() if key != "shards"}
    assert plan.shard_meta(1) == {
        "pack_id": plan.pack_id, "shard": 1, "shards": 2, "plan": header, "span": SPANS[1]
    }  # fmt: skip


def test_only_the_last_shard_of_a_stream_knows_how_many_there_are() -> None:
    plan = PackPlan.make(kind="train", source=SOURCE)
    counts = [plan.shard_meta(k, last=last)["shards"] for k, last in ((0, False), (1, True))]
    assert counts == [None, 2]
    assert plan.shard_meta(0)["span"] is None


def test_appended_plans_keep_the_ids_that_their_shards_state() -> None:
    first = PackPlan.make(kind="train", source=SOURCE, classes=5, shards=SPANS)
    added = PackPlan.make(kind="train", source=SOURCE, classes=9).with_fields(onto=first.pack_id)
    grown = first.with_appended(added.fields)
    more = added.with_fields(onto=grown.pack_id, classes=None)
    twice = grown.with_appended(more.fields)
    ids = [part.pack_id for part in twice.parts()]
    assert ids == [first.pack_id, added.pack_id, more.pack_id]
    assert twice.pack_id not in ids
    assert [part.pack_id for part in first.parts()] == [first.pack_id]


@pytest.mark.parametrize(("classes", "highest", "count"), [(None, -1, 0), (5, 2, 5), (5, 7, 8)])
def test_classes_are_what_was_stated_unless_labels_go_beyond(
    classes: int | None, highest: int, count: int
) -> None:
    plan = PackPlan.make(kind="train", source=SOURCE, classes=classes)
    assert plan.class_count(highest) == count
    grown = plan.with_appended({**plan.fields, "classes": 20, "onto": plan.pack_id})
    assert grown.class_count(highest) == 20


@pytest.mark.parametrize("options", [{"order": "random"}, {"seed": -1}, {"classes": 100_000_001}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(PackError, match=r"allowed are"):
        PackPlan.make(kind="train", source=SOURCE, **options)
