"""One machine: Ray, the MLflow server, the Serve app, their process file; up and down."""
