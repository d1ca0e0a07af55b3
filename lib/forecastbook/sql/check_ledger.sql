-- More than one pointer for a job, a model and an as-of date, or one run behind several.
SELECT
  (SELECT COUNT(*) FROM (SELECT job FROM PublishLedger GROUP BY job, model_id, as_of HAVING COUNT(*) > 1) AS twice)
  + (SELECT COUNT(*) FROM (SELECT run_id FROM PublishLedger GROUP BY run_id HAVING COUNT(*) > 1) AS shared) AS faults
