"""pysmtpd: a privilege-separated mail server in the image of OpenSMTPD."""

VERSION = "0.1.0"
NAME = "pysmtpd"
