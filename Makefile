# Thin callers; the scripts themselves are in hatch.toml.
RUN = python3 bootstrap.py
COMPOSE = docker compose -f deployments/compose.yaml

.PHONY: build test dev dev-down docker-build lint clean db-init

build:
	$(RUN) wheels

test:
	$(RUN) tests

dev:
	$(RUN) server dev

dev-down:
	$(COMPOSE) down

docker-build:
	docker build -f deployments/Dockerfile -t quorra .

lint:
	$(RUN) verify

clean:
	rm -rf .bootstrap dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

db-init:
	$(RUN) server migrate
