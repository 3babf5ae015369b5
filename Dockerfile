# The server on a CPU: docker build -t mixonomy . && docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/demo:/model:ro" mixonomy
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir torch torchvision torchcodec --index-url https://download.pytorch.org/whl/cpu \
    && /venv/bin/pip install --no-cache-dir '.[serve]' 'onnxruntime>=1.20'

FROM python:3.11-slim
COPY --from=build /venv /venv
RUN useradd --system --create-home mixonomy
USER mixonomy
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["mixonomy", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--allow-host", "localhost"]
