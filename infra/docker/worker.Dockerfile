# A worker: python with CUDA's runtime (torch brings its libraries), or for the CPU with
#   --build-arg BASE=ubuntu:24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Build from the root of the repository: docker build -f infra/docker/worker.Dockerfile -t bgpipe-worker .
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/bgpipe
ENV PATH=/opt/bgpipe/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml ./
COPY infra/docker/requirements.py infra/docker/
# Empty: the default build of torch, which requires a recent driver. For another one, for example:
# https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=
RUN python infra/docker/requirements.py --only torch > torch.txt \
    && pip install ${TORCH_INDEX:+--index-url $TORCH_INDEX} -r torch.txt
RUN python infra/docker/requirements.py --extra heic > requirements.txt \
    && pip install -r requirements.txt
COPY config config
COPY pipeline pipeline
COPY workers workers
COPY infra/LICENSE infra/NOTICE infra/
COPY infra/package infra/package
RUN pip install --no-deps .

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 1000 -g 1000 /models /uploads /state /etc/bgpipe
COPY --from=build /opt/bgpipe /opt/bgpipe
ENV PATH=/opt/bgpipe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    BGPIPE_MODEL__CACHE_DIR=/models \
    BGPIPE_STATE_DIR=/state
# The root file system may be read-only: the worker writes only to these volumes and to /tmp.
VOLUME ["/models", "/state"]
WORKDIR /etc/bgpipe
USER 1000:1000
# On SIGTERM a worker finishes the images in flight.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=25s --start-period=180s --retries=3 \
    CMD ["bgpipe", "doctor", "--worker"]
ENTRYPOINT ["bgpipe"]
CMD ["worker"]
