"""The local Prefect, Ray and MLflow servers: started, found and stopped."""
