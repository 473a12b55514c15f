"""EGNN on molecules and, with velocities, on charged particles; the networks and their parts."""
