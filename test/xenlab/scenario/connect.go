package scenario

var connect = Scenario{
	Name:   "connect",
	Proves: "a vif connects: backend state 4, carrier in dom0, ping both ways over IPv4 and IPv6, with an MTU of 1500 and of 9000",
	Run:    func(t *T) { t.Fatalf("not built yet") },
}
