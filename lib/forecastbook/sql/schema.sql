-- Every table of the warehouse, in GoogleSQL. Types are written here and nowhere else: the Arrow schemas are read off this
-- text. A column that a shop's older table may lack is nullable, so that migrate() can add it. NOT NULL marks what must be there.
-- The comments become the descriptions of tables and columns in BigQuery. Partitions and clusters are BigQuery's too: the months of
-- date_id and the as-of dates of the forecasts. No table demands a filter on its partitions: that would break a shop's own readers.

-- Prices, as the shops already have them -----------------------------------------------------------------------------------

-- One posted price of one variant on one day. Written append-only, so a day can hold several: the highest id is the newest.
CREATE TABLE IF NOT EXISTS FactProductPrice (
  price_fact_id INT64 NOT NULL,
  variant_id INT64 NOT NULL,
  date_id INT64 NOT NULL,          -- DimDate.date_id, YYYYMMDD
  current_price FLOAT64 NOT NULL,  -- what a buyer pays
  original_price FLOAT64,          -- list price, where the shop shows one
  is_available BOOL NOT NULL
)
PARTITION BY RANGE_BUCKET(date_id, GENERATE_ARRAY(20000100, 20400100, 100))
CLUSTER BY variant_id;

-- What is priced: one variant of one product of one shop.
CREATE TABLE IF NOT EXISTS DimVariant (
  variant_id INT64 NOT NULL,
  shop_product_id INT64 NOT NULL,  -- 0 for a series that came from a file
  variant_title STRING NOT NULL,
  source_key STRING                -- the id in the file it came from, where variant_id is a hash of it
);

-- Days.
CREATE TABLE IF NOT EXISTS DimDate (
  date_id INT64 NOT NULL,          -- YYYYMMDD
  full_date DATE NOT NULL,
  year INT64 NOT NULL,
  month INT64 NOT NULL,
  day INT64 NOT NULL,
  day_of_week STRING NOT NULL      -- Monday .. Sunday
);

-- Products as a shop lists them.
CREATE TABLE IF NOT EXISTS DimShopProduct (
  shop_product_id INT64 NOT NULL,
  shop_id INT64 NOT NULL,
  product_title_native STRING NOT NULL,
  brand_native STRING,
  description_native STRING,
  product_url STRING,
  scraped_date DATE,
  predicted_master_category_id INT64
);

-- Sales --------------------------------------------------------------------------------------------------------------------

-- What is sold.
CREATE TABLE IF NOT EXISTS DimItem (
  item_id INT64 NOT NULL,
  title STRING NOT NULL,
  source_key STRING,               -- the id in the file it came from, where item_id is a hash of it
  attributes_json STRING,          -- JSON object of the item's fixed attributes
  from_files BOOL,                 -- true for an item that came from files: not one of the warehouse's own
  job STRING                       -- whose files those were, of the job that read them last
);

-- One row an item and period in which something was sold.
CREATE TABLE IF NOT EXISTS FactSales (
  item_id INT64 NOT NULL,
  period DATE NOT NULL,            -- first day of the period
  units FLOAT64 NOT NULL,
  revenue FLOAT64,
  list_price FLOAT64,              -- mean price of a unit before reductions, where known
  promotion FLOAT64                -- share of the units that were sold at a reduced price, where known
)
PARTITION BY DATE_TRUNC(period, MONTH)
CLUSTER BY item_id;

-- One row an item and day: arrivals minus sales.
CREATE TABLE IF NOT EXISTS FactStockMovement (
  item_id INT64 NOT NULL,
  date DATE NOT NULL,
  units FLOAT64 NOT NULL
)
PARTITION BY DATE_TRUNC(date, MONTH)
CLUSTER BY item_id;

-- What a month in stock says about demand.
CREATE TABLE IF NOT EXISTS FactItemMonth (
  item_id INT64 NOT NULL,
  period DATE NOT NULL,            -- first day of the month
  availability FLOAT64,            -- share of days in stock, 0 to 1
  confidence FLOAT64,              -- mean of clip(stock, 0, 5) / 5, 0 to 1
  masked_mean_units FLOAT64,       -- mean daily sales over the days in stock
  lost_sales_units FLOAT64,
  lost_sales_revenue FLOAT64
);

-- Forecasts ----------------------------------------------------------------------------------------------------------------

-- Price forecasts of every run ever published; readers use the view CurrentPriceForecast.
CREATE TABLE IF NOT EXISTS FactPriceForecast (
  forecast_id STRING NOT NULL,     -- run_id-variant_id-horizon
  variant_id INT64 NOT NULL,
  model_id INT64 NOT NULL,
  forecast_date DATE NOT NULL,
  predicted_price FLOAT64,         -- the median
  confidence_upper FLOAT64,        -- the 95 % quantile
  confidence_lower FLOAT64,        -- the 5 % quantile, never below 0
  created_at TIMESTAMP,
  as_of DATE,                      -- the last day that the forecast knew of
  horizon INT64,                   -- periods ahead, 1 .. H
  p_change FLOAT64,                -- probability that the price of that day differs from the last one, by more than 0.5 %
  run_id STRING
)
PARTITION BY as_of
CLUSTER BY variant_id, run_id;

-- Sales forecasts of every run ever published; readers use the view CurrentSalesForecast.
CREATE TABLE IF NOT EXISTS FactSalesForecast (
  forecast_id STRING NOT NULL,     -- run_id-item_id-horizon
  item_id INT64 NOT NULL,
  model_id INT64 NOT NULL,
  forecast_date DATE NOT NULL,
  horizon INT64,
  q05 FLOAT64,
  q25 FLOAT64,
  q50 FLOAT64,
  q75 FLOAT64,
  q95 FLOAT64,
  mean FLOAT64,
  as_of DATE,
  created_at TIMESTAMP,
  run_id STRING
)
PARTITION BY as_of
CLUSTER BY item_id, run_id;

-- The models that forecasts name.
CREATE TABLE IF NOT EXISTS DimModel (
  model_id INT64 NOT NULL,
  model_name STRING NOT NULL,
  model_version STRING NOT NULL,
  model_type STRING,
  training_date DATE,
  performance_metrics_json STRING,
  hyperparameters_json STRING
);

-- The pointer that publishing flips: which run is the one to read for a job, a model and an as-of date.
CREATE TABLE IF NOT EXISTS PublishLedger (
  job STRING NOT NULL,
  model_id INT64 NOT NULL,
  as_of DATE NOT NULL,
  run_id STRING NOT NULL,
  `rows` INT64 NOT NULL,
  published_at TIMESTAMP NOT NULL
);

-- Forecasts that have met their actuals: the accuracy record over time.
CREATE TABLE IF NOT EXISTS ForecastScore (
  job STRING NOT NULL,
  model_id INT64 NOT NULL,
  as_of DATE NOT NULL,
  run_id STRING NOT NULL,
  horizon INT64 NOT NULL,
  metric STRING NOT NULL,          -- error, baseline_error, coverage; of sales absolute_error, absolute_baseline_error, mean_sales, coverage
  value FLOAT64,
  n INT64 NOT NULL,                -- observations behind the value
  scored_at TIMESTAMP NOT NULL
)
CLUSTER BY job, as_of;
