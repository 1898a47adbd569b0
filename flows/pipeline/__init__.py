"""Running the stages: the whole graph as a Prefect flow, one flow a stage, and the execution of each."""
