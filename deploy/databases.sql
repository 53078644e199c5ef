-- Optuna and MLflow each keep an `alembic_version` table, so they cannot share a database; POSTGRES_DB makes the other.
CREATE DATABASE mlflow OWNER pulseledger;
