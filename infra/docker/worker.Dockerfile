# A worker. CUDA comes with torch; the driver from the host, by the NVIDIA container toolkit. For the CPU:
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Build from the root of the repository: docker build -f infra/docker/worker.Dockerfile -t bgpipe-worker .
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS build
RUN python -m venv /opt/bgpipe
ENV PATH=/opt/bgpipe/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml ./
COPY infra/docker/requirements.py infra/docker/
# Empty: the default build of torch. For an older driver or GPU (infra/docs/gpu.md), for example:
# https://download.pytorch.org/whl/cu126
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
# The compiler is Triton's and torch.compile's: both compile as they run.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 1000 -g 1000 /models /uploads /state /etc/bgpipe
COPY --from=build /opt/bgpipe /opt/bgpipe
ENV PATH=/opt/bgpipe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    BGPIPE_MODEL__CACHE_DIR=/models \
    BGPIPE_STATE_DIR=/state \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
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
