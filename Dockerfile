# The image unet4d:  docker build -t unet4d .
# Needs BuildKit (Docker 23 or newer) or podman, and a network; a run of the image needs none.
#
# BASE brings CUDA and torch of the version that constraints.txt pins, so that torch is not downloaded a second time. CUDA 13.0
# needs driver 580 or newer. 2.13.0-cuda12.6-cudnn9-runtime runs on drivers from 525 on, with a cuDNN (9.10.2) that is reported to
# compute some bf16 and TF32 convolutions wrong: unet4d compares them at its start and refuses where they are, see docs/how-to/docker.md.
# Any Debian or Ubuntu image with Python 3.11 or newer, or with none and that in its packages, will do: a site's mirror, a CUDA
# runtime, debian:12-slim. What it lacks of Python, pip and torch is installed. For another torch, change constraints.txt too.
ARG BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
FROM ${BASE}

ARG BASE
LABEL org.opencontainers.image.title="unet4d" \
      org.opencontainers.image.description="Segmentation of 4D MRI (3D + time) with a CLSTM-UNet" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"

USER 0

# A virtual environment on top of the base's packages: such bases refuse to install into their own Python (PEP 668).
# hadolint ignore=DL3008
RUN if ! python3 -m pip --version > /dev/null 2>&1; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 python3-pip \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"BASE has Python {sys.version}; wanted 3.11 or newer")' \
    && python3 -m venv --system-site-packages --without-pip /opt/venv
ENV PATH=/opt/venv/bin:${PATH}

# Dependencies, a layer that a change of the source leaves alone. The package index may be another: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=pyproject.toml,target=/mnt/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/mnt/constraints.txt \
    python -c 'import tomllib; p = tomllib.load(open("/mnt/pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], *p["optional-dependencies"]["nrrd"], *p["optional-dependencies"]["dicom"], sep="\n")' \
        > /tmp/requirements.txt \
    && python -m pip install -c /mnt/constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,target=/mnt \
    cp -r /mnt /tmp/unet4d \
    && python -m pip install --no-deps /tmp/unet4d \
    && rm -rf /tmp/unet4d \
    && python -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "from", torch.__file__)'

# The image runs under any user (docker run --user): HOME is writable for all, and USER is there for uids without a name, which
# getpass, and with it MONAI, asks for.
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin unet4d \
    && install -d /data \
    && install -d -m 1777 /runs
ENV HOME=/tmp \
    USER=unet4d \
    PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME ["/data", "/runs"]
WORKDIR /runs

# Python as process 1 does not hear SIGTERM; on SIGINT a run ends at once and whole.
STOPSIGNAL SIGINT
ENTRYPOINT ["unet4d"]
CMD ["--help"]
