package netfront

// PagesNeeded is how many granted pages a vif with this many queue pairs takes with
// full rings; 0 stands for the number that a [Config] has by default.
func PagesNeeded(queues int) int {
	if queues == 0 {
		queues = defaultQueues()
	}
	return queues * pairPages(fullMaps)
}

// SparePages is how many pages more than needed the limit is raised to, for others in
// the guest who grant pages too.
func SparePages() int { return pairPages(fullMaps) }
