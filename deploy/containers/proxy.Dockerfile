# syntax=docker/dockerfile:1
# The coordinator's door: nginx with deploy/nginx/fovea.conf, as the coordinator's user, which owns the
# certificate's key. Build from the repository's root:
#   docker build -f deploy/containers/proxy.Dockerfile -t fovea-proxy .
FROM nginx:1.28-alpine
COPY deploy/nginx/container.conf /etc/nginx/nginx.conf
COPY deploy/nginx/fovea.conf /etc/nginx/conf.d/fovea.conf
RUN rm -f /etc/nginx/conf.d/default.conf \
    && ln -sf /dev/stdout /var/log/nginx/fovea.access.log \
    && ln -sf /dev/stderr /var/log/nginx/fovea.error.log
USER 10000:10000
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["nc", "-z", "127.0.0.1", "443"]
ENTRYPOINT ["nginx"]
CMD ["-g", "daemon off;"]
