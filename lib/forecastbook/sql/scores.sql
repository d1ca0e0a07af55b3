-- The accuracy record of one job, each score once, though two may have written it at the same time: the scores of the run that the ledger names for each as-of date, as vintages.sql chooses it.
WITH sets AS (
  SELECT job, model_id, as_of, run_id
  FROM PublishLedger
  WHERE job = @job AND as_of >= @since AND as_of < @before
  QUALIFY ROW_NUMBER() OVER (PARTITION BY job, as_of ORDER BY published_at DESC, run_id DESC) = 1
)
SELECT c.job, c.model_id, c.as_of, c.run_id, c.horizon, c.metric, c.value, c.n, c.scored_at
FROM ForecastScore AS c
JOIN sets AS s ON c.job = s.job AND c.model_id = s.model_id AND c.as_of = s.as_of AND c.run_id = s.run_id
WHERE c.job = @job AND c.as_of >= @since AND c.as_of < @before
QUALIFY ROW_NUMBER() OVER (
  PARTITION BY c.job, c.model_id, c.as_of, c.run_id, c.horizon, c.metric ORDER BY c.n DESC, c.scored_at DESC
) = 1
ORDER BY c.as_of, c.horizon, c.metric
