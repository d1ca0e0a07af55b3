-- The model behind a run, with its metrics and hyperparameters as JSON: written anew on every publication, but by none
-- of an earlier date than the one that is there.
MERGE INTO DimModel AS m
USING (
  SELECT @model_id AS model_id, @model_name AS model_name, @model_version AS model_version, @model_type AS model_type,
    CAST(@training_date AS DATE) AS training_date, @performance_metrics_json AS performance_metrics_json,
    @hyperparameters_json AS hyperparameters_json
) AS s
ON m.model_id = s.model_id
WHEN MATCHED AND (m.training_date IS NULL OR s.training_date IS NULL OR s.training_date >= m.training_date) THEN UPDATE SET
  model_name = s.model_name, model_version = s.model_version, model_type = s.model_type, training_date = s.training_date,
  performance_metrics_json = s.performance_metrics_json, hyperparameters_json = s.hyperparameters_json
WHEN NOT MATCHED THEN INSERT
  (model_id, model_name, model_version, model_type, training_date, performance_metrics_json, hyperparameters_json)
  VALUES (s.model_id, s.model_name, s.model_version, s.model_type, s.training_date, s.performance_metrics_json,
    s.hyperparameters_json)
