# facepack on GPUs. Build and run from the repository:
#
#   docker build -t facepack .
#   docker run --rm --gpus all --ipc host --user $(id -u):$(id -g) -v /data:/data \
#     facepack train --shards /data/packs/faces --config ms1mv3_r50 --out /data/runs/first
#   docker run … --entrypoint torchrun facepack --nproc-per-node gpu -m facepack.train …
#
# Any image with Python 3.10 and torch 2.4 or newer can be the base; torch stays the one it brings.
ARG BASE=pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime
FROM ${BASE}

# The optional packages: DALI decodes on the GPU, the others are what single commands and options need.
ARG EXTRAS=dali,tensorboard,numba,export,plot,dask,parquet
# Some bases have their Python from the distribution, which pip would leave alone.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/facepack
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY facepack facepack
COPY convert convert
COPY train train
COPY evaluate evaluate

RUN python -c "import torch; print(f'torch=={torch.__version__}')" > torch.txt
RUN python -m pip install -c torch.txt ".[$EXTRAS]"
RUN cd / && facepack --version && python -c "import facepack.train.loop.run" && torchrun --help > /dev/null

# Nobody in particular, and a home to write caches to, whoever `--user` names.
ENV HOME=/tmp
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["facepack"]
