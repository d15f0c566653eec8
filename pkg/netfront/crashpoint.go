package netfront

// crashStep is a place where a process can be made to die, in builds for the test of
// hand-over (build tag crashpoints). Others pay nothing for it.
type crashStep string

const (
	crashHold         crashStep = "hold"         // nothing is with the holder yet
	crashHeldEvents   crashStep = "held-events"  // the event files are, the state is not
	crashPublished    crashStep = "published"    // the rings are in the store, the state is not Connected
	crashAdopt        crashStep = "adopt"        // the state was read, nothing changed
	crashAdoptQueue   crashStep = "adopt-queue"  // one direction of a pair was adopted
	crashAdopted      crashStep = "adopted"      // all was, and no worker runs
	crashLeave        crashStep = "leave"        // workers are stopped, descriptors open
	crashEnd          crashStep = "end"          // given up, with the holder not told yet
	crashTxRead       crashStep = "tx-read"      // frames were read from the TAP, and nothing notes it
	crashTxHand       crashStep = "tx-hand"      // they are in hand
	crashTxPut        crashStep = "tx-put"       // a slot was put, its map is not in flight
	crashTxPutMap     crashStep = "tx-put-map"   // its map is in flight, the frame is not whole
	crashTxCommit     crashStep = "tx-commit"    // the frame is whole, and not published
	crashTxPublish    crashStep = "tx-publish"   // published, the backend not notified
	crashTxRelease    crashStep = "tx-release"   // a response's map is free, the response not consumed
	crashTxConsume    crashStep = "tx-consume"   // responses are consumed
	crashRxConsume    crashStep = "rx-consume"   // responses are consumed, their frames not written
	crashRxWrite      crashStep = "rx-write"     // frames are written, their maps not posted
	crashRxPost       crashStep = "rx-post"      // a map is posted, the index not
	crashRxRepost     crashStep = "rx-repost"    // maps are posted, and not published
	crashRxPublish    crashStep = "rx-publish"   // published, the backend not notified
	crashEventRead    crashStep = "event-read"   // an event was taken, its port is masked
	crashEventWritten crashStep = "event-unmask" // one port of the worker's was written back
)
