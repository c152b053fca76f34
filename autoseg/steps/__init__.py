"""The stages of the pipeline: pure functions of records and arrays."""
