"""TorchMD-NET's equivariant transformer; its network and its parts."""
