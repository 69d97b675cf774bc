"""The same records for other programs: tidy CSV, a LaTeX table, plain JSON, and TensorBoard's event files."""
