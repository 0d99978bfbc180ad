"""HTML pages that load nothing and run no script, and charts as inline SVG."""
