# One image for web, capture, worker, beat and `manage.py`: the command says which (see Procfile).
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent mission

COPY requirements.txt .
RUN pip install --require-hashes --only-binary :all: --requirement requirements.txt

COPY manage.py gunicorn.conf.py Procfile ./
COPY config config
COPY eventing eventing
COPY webui webui
COPY templates templates
COPY static static

# The settings must load for this; nothing of these values stays in the image.
RUN python -m compileall -q config eventing webui \
    && DATABASE_URL=postgresql://nobody@127.0.0.1:1/nothing REDIS_URL=redis://127.0.0.1:1 \
    SECRET_KEY=only-for-collectstatic ENCRYPTION_KEYS=only-for-collectstatic-only-for-collectstatic \
    python manage.py collectstatic --noinput

USER mission
EXPOSE 8000
CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "gthread", \
    "--threads", "8", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
