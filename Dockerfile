# Serves the page on which a model can be tried: docker build -t avmae-demo . && docker run --rm -p 127.0.0.1:7860:7860 avmae-demo
# A model of your own: docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/runs/mine:/model:ro" avmae-demo /model
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 visitor
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY avmae_jax avmae_jax
COPY configs configs
COPY launch launch
RUN pip install --no-cache-dir ".[demo]"

USER visitor
WORKDIR /home/visitor
EXPOSE 7860
ENTRYPOINT ["avmae", "demo", "--host=0.0.0.0", "--port=7860"]
