# edgeproxy as an image: docker build -t edgeproxy . && docker run -v ./edge:/etc/edgeproxy:ro -p 80:8080 -p 443:8443 edgeproxy
# ./edge has edgeproxy.yaml and the certificates; a folder, because a file that is mounted alone stays the old one when it is replaced.
# The root file system may be read-only. There is no HEALTHCHECK yet: the command that it would call is not built.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends cargo gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# In an image the native codec is a must, not a wish.
RUN python -m venv /opt/edgeproxy && EDGEPROXY_BUILD_NATIVE=1 /opt/edgeproxy/bin/pip install --no-cache-dir .

FROM python:${PYTHON}-slim
RUN groupadd --system --gid 10001 edgeproxy && useradd --system --uid 10001 --gid edgeproxy --no-create-home edgeproxy
COPY --from=build /opt/edgeproxy /opt/edgeproxy
ENV PATH=/opt/edgeproxy/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /etc/edgeproxy
EXPOSE 8080 8443
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgeproxy"]
CMD ["-c", "/etc/edgeproxy/edgeproxy.yaml"]
