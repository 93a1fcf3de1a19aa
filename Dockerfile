FROM rust:1.89-slim-bookworm AS builder
WORKDIR /src
COPY . .
# The caches keep dependencies between builds and are no part of the image, hence the copy out of the target folder.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin peer-server \
    && install -D -m 0755 target/release/peer-server /out/peer-server

FROM debian:bookworm-slim
# Roots for TLS to a broker; the server's own certificates come from its configuration.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /out/peer-server /usr/local/bin/peer-server
COPY --chmod=0644 config.json /etc/peer-server/config.json
# A number, so that an orchestrator can prove that it is not root without reading the image's passwd.
USER 65532:65532
EXPOSE 8080
# SIGTERM makes the server drain: peers are told with close code 1001.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/peer-server", "healthcheck", "-config", "/etc/peer-server/config.json"]
ENTRYPOINT ["/usr/local/bin/peer-server"]
CMD ["-config", "/etc/peer-server/config.json"]
