"""The only SQL: tables, migrations, what is written down about GPU time and money, and questions about it."""
