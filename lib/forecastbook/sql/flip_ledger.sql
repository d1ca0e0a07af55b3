-- The pointer flips: this run is now the one to read for its job, model and as-of date. A flip that comes late, after that of a
-- later publication, changes nothing.
MERGE INTO PublishLedger AS l
USING (SELECT @job AS job, @model_id AS model_id, @as_of AS as_of, @run_id AS run_id, @n AS n, @published_at AS published_at) AS s
ON l.job = s.job AND l.model_id = s.model_id AND l.as_of = s.as_of
WHEN MATCHED AND l.published_at < s.published_at THEN UPDATE SET run_id = s.run_id, `rows` = s.n, published_at = s.published_at
WHEN NOT MATCHED THEN INSERT (job, model_id, as_of, run_id, `rows`, published_at)
  VALUES (s.job, s.model_id, s.as_of, s.run_id, s.n, s.published_at)
