"""What a report of a fault has to say of the machine and the installation (`neupol info`)."""
