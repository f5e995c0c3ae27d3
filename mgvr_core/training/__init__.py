"""Training: the loss, the step on any number of workers, and runs that can be stopped and continued."""
