"""The console command `adaloss`."""
