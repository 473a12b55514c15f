"""Several processes of torchrun: process group, rendezvous, environment."""
