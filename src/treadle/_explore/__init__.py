"""The seeded scheduler behind ``treadle.testing.explore``. Stands on ``_core`` alone. See README.md here."""
