"""What authors of extensions test against: conformance suites, fakes and a pytest plugin."""
