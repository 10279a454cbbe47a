# The gateway, with the Redis and PostgreSQL extras. Give it an llmguard.yaml: see compose.yaml.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/llmguard
COPY locks/run.txt locks/run.txt
RUN /opt/llmguard/bin/pip install --no-cache-dir --require-hashes -r locks/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY examples/celery_worker examples/celery_worker
COPY src src
RUN /opt/llmguard/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/llmguard llmguard
COPY --from=build /opt/llmguard /opt/llmguard
ENV PATH=/opt/llmguard/bin:$PATH PYTHONUNBUFFERED=1
USER llmguard
WORKDIR /var/lib/llmguard
VOLUME /var/lib/llmguard
EXPOSE 8080
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/livez', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["llmguard"]
CMD ["serve", "--host", "0.0.0.0"]
