# Thin verbs; each line works without make too (`make -n VERB` shows it).
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SCENARIO ?=

.PHONY: help up smoke status down test soak lint bench-app bench-deploy figures tools lab

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## bring up the whole platform on nine lab hosts and edit a real photo
	@scripts/up

smoke: ## the end-to-end proof alone
	@scripts/smoke

status: ## every host's units and the versions running
	@scripts/status

down: ## remove the lab's hosts and network, and nothing else
	@ansible-playbook playbooks/lab/destroy.yml

test: ## everything; SCENARIO=redis runs one scenario
	@scripts/bootstrap lab
	@scripts/test $(SCENARIO)

soak: ## the long series that would make `make test` too slow
	@scripts/bootstrap lab
	@scripts/soak

lint: ## what `make test` starts with
	@scripts/bootstrap tools
	@scripts/lint

bench-app: ## the application's speed and memory, in ratios of one run
	@scripts/bootstrap lab
	@scripts/bench-app

bench-deploy: ## time a second run with our settings and with Ansible's own (the lab must be up)
	@scripts/bench-deploy

figures: ## the newest measurement of every promise
	@python scripts/figures.py
