-- The days of a window, each once.
SELECT date_id, MIN(full_date) AS full_date
FROM DimDate
WHERE date_id BETWEEN @from_date_id AND @to_date_id
GROUP BY date_id
ORDER BY date_id
