"""A log in a PostgreSQL database; needs psycopg (``pip install 'taskfold[postgres]'``)."""
