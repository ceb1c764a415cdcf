package appliance

func (c *Config) recovering() error { return nil }
