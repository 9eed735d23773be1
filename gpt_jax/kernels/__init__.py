"""Array operations that know no model: each folder is one op with one public function."""
