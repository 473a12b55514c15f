"""DimeNet++: messages on bonds, turned by angles; its network and its parts."""
