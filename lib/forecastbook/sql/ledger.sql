SELECT job, model_id, as_of, run_id, `rows`, published_at
FROM PublishLedger
ORDER BY job, as_of, published_at, model_id
