"""Tools around the compiler and the runtime: the independent reference stepper and its users."""
