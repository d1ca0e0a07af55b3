"""Forecasts of prices and sales, written by notebooks. ARCHITECTURE.md says what each module is."""
