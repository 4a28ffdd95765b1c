"""What can be said: types of values, tunables, commands. Knows neither the grammar nor the model."""
