// Package appliance puts a node together: Config is what triward.yaml says, App is the running node. It owns the
// order in which the parts start and stop, and nothing else builds other people's parts.
//
// It promises that New and Start roll back what they began when they fail, that Stop ends everything in the
// reverse order and may be called twice, and that several Apps run beside each other in one process. It sees
// every package of Triward; none but the commands and tests may import it.
package appliance
