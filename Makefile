# Each verb is a short command; `make -n VERB` prints the command.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Containers often set this. Python would then compile all of Ansible again for each command, which takes three seconds.
unexport PYTHONDONTWRITEBYTECODE
# Ansible refuses a locale that this machine has not. What is printed stays in the language of the reader.
ifneq ($(shell locale 2>&1 >/dev/null),)
export LANGUAGE := $(or $(LANGUAGE),$(LC_ALL),$(LC_MESSAGES),$(LANG))
export LC_ALL := C.UTF-8
endif
# SMALL=1: the lab on nine hosts (inventories/lab_small) instead of twelve.
SMALL ?=
# The environment of a verb, a folder of inventories/: make status ENV=production
ENV ?= lab$(if $(SMALL),_small)
export ENV
SCENARIO ?=
NAME ?=
LAYER ?=
CHAOS ?=
PIECE ?=
DUE ?=
HOURS ?=
# Arguments of pytest for make dev-test.
TESTS ?=

# For verbs that create, remove or measure the lab's hosts.
lab_only = @[[ "$(ENV)" =~ ^lab(_small)?$$ ]] || { echo "make $@ works on the lab alone, and ENV is $(ENV)" | scripts/speak >&2; exit 2; }

.PHONY: help dev dev-test up smoke status down test soak chaos lint role vault vault-ca bench-app bench-deploy figures docs screenshots

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST) | scripts/speak

up: ## bring up the whole platform on twelve lab hosts and edit a real photo (SMALL=1: on nine)
	$(lab_only)
	@scripts/up

smoke: ## run the end-to-end test: an edit, a batch, a callback (ENV=lab)
	@scripts/smoke

status: ## show the services and versions of every host (ENV=lab)
	@scripts/status

down: ## remove the lab's hosts and network, and nothing else
	$(lab_only)
	@ansible-playbook -i inventories/lab playbooks/lab/destroy.yml

test: ## run all tests; SCENARIO=redis runs one scenario
	@scripts/bootstrap lab
	@python scripts/suite.py $(SCENARIO)

dev: ## run the application for development on this machine, with reload: PORT=8000
	@scripts/dev

dev-test: ## run the application's tests in the container of `make dev`; TESTS="tests/imaging -k blur"
	@scripts/dev test $(TESTS)

soak: ## list the pieces of the long tests; PIECE=name runs one, DUE=1 those whose inputs have changed since their proof
	@scripts/bootstrap lab
	@python scripts/soak.py $(if $(DUE),--due $(HOURS),$(PIECE))

chaos: ## take hosts of the lab away at random and show what a client notices; CHAOS="--seed 7 --minutes 30"
	$(lab_only)
	@python scripts/chaos.py $(CHAOS)

lint: ## check style and Ansible rules
	@scripts/bootstrap tools
	@scripts/lint

role: ## create a role with its scenario and playbook entry: NAME=image_cache [LAYER=base]
	@python3 scripts/new_role.py $(NAME) $(LAYER) 2>&1 | scripts/speak

vault: ## create the encrypted secrets of an environment: ENV=<yours>
	@scripts/bootstrap tools
	@python scripts/vault.py $(ENV)

vault-ca: ## put the CA of an environment into its vault: ENV=<yours>
	@scripts/bootstrap tools
	@python scripts/vault.py --ca $(ENV)

bench-app: ## measure the application's speed and memory
	@scripts/bootstrap lab
	@scripts/bench-app

bench-deploy: ## measure a second run, its dearest tasks and the idle lab (the lab must be up)
	$(lab_only)
	@python -u scripts/bench_deploy.py 2>&1 | scripts/speak

figures: ## show the newest value of every measured figure
	@python scripts/figures.py | scripts/speak

docs: ## build the site of the documents in build/site
	@scripts/bootstrap tools
	@python scripts/docs.py 2>&1 | scripts/speak

screenshots: ## make the screenshots of the README again (the lab must be up)
	$(lab_only)
	@scripts/screenshots
