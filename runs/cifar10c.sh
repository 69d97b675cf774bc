#!/usr/bin/env bash
# CIFAR10-C from nothing to table and report, on a CUDA GPU: `bash runs/cifar10c.sh [resnet18|resnet50] [--all] [SETTING ...]`,
# see full_scale.sh. Tried at toy size alone so far, so no time and no figure can be promised.
exec bash "$(dirname "$0")/full_scale.sh" cifar10c cifar10 cifar "$@"
