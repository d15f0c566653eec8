// Package traffic is what the lab's guest agent makes traffic with, and what it looks
// at traffic with. Each tool is a command that prints JSON, one object on a line, so
// that a scenario asserts on what the receiving side saw.
//
//	send, receive        TCP flows of seeded bytes, hashed at both ends
//	stream, stream-sink  numbered UDP packets at a rate, and what became of them
//	watch-frames         the frames that pass an interface, their sizes and checksums
//
// The commands that wait for somebody print a line with "ready" before they do. All
// end when their context does, with the result until then.
package traffic
