# The relay in a container. Build the image in a clone of the repository, with one of
#
#   docker build -t acebase-ipc .
#   podman build --format docker -t acebase-ipc .
#
# (without --format docker, Podman leaves out the HEALTHCHECK). Then write a token that user
# 10001 can read, and start the relay:
#
#   (umask 077 && openssl rand -hex 32 > token) && sudo chown 10001 token
#   docker run -d --name acebase-ipc -p 127.0.0.1:9163:9163 --read-only --cap-drop ALL \
#       --security-opt no-new-privileges --memory 2g --ulimit nofile=32768:32768 \
#       -v "$PWD/token:/run/secrets/acebase-ipc-token:ro" acebase-ipc
#   docker exec acebase-ipc acebase-ipc status
#
# Never run two relays for the same database: they do not know each other's peers. Options that
# follow the image's name replace all of CMD; the health check needs its --admin. "docker stop"
# gives the relay 10 s; it needs at most 5.
# Other ways to run the image: contrib/docker/compose.yaml, contrib/kubernetes, contrib/podman.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /source
COPY . .
RUN contrib/venv /opt/acebase-ipc

FROM ${BASE}
COPY --from=build /opt/acebase-ipc /opt/acebase-ipc
# The journal, which lets a cluster go on after the relay was killed. It is all that is written.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/acebase-ipc
VOLUME /var/lib/acebase-ipc
ENV PATH=/opt/acebase-ipc/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /
USER 10001:10001
EXPOSE 9163
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["acebase-ipc", "--admin", "http://127.0.0.1:9164", "status"]
# The first process stays while relays take over from each other ("acebase-ipc upgrade").
ENTRYPOINT ["acebase-ipc", "supervise", "twistd", "--nodaemon", "--pidfile=", "acebase-ipc"]
# tcp6: accepts IPv4, too. The admin endpoint can be reached from inside the container only.
CMD ["--port", "tcp6:9163", "--admin", "tcp:9164:interface=127.0.0.1", \
     "--token-file", "/run/secrets/acebase-ipc-token", "--state-dir", "/var/lib/acebase-ipc"]
