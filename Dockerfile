# edgeproxy as an image: docker build -t edgeproxy . && docker run -v ./edgeproxy.yaml:/etc/edgeproxy/edgeproxy.yaml:ro -p 80:8080 edgeproxy
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
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgeproxy"]
CMD ["-c", "/etc/edgeproxy/edgeproxy.yaml"]
