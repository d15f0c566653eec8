package scenario

// All is every scenario, in the order in which they run.
func All() []Scenario {
	return []Scenario{
		connect,
	}
}
